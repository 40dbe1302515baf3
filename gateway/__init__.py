"""The gateway: public gRPC and HTTP front ends, queueing, routing, failover and metrics.

Life of a request (each step names its module):

 1. a front end converts the wire form and stamps arrival     grpc_front, http_front
 2. values are checked without knowing the model              validation
 3. the tokenizer encodes the prompt                          tokenizer_client
 4. lengths, features and defaults of the model are applied   admission
 5. the completion waits in its model's queue                 dispatcher, waiting_queue
 6. a device with room is chosen and the prompt submitted     router, device_session
 7. frames bring tokens, which go on to the tokenizer         sequence, detokenize_stream
 8. text comes back and is put in the request's buffer        sequence, output
 9. the front end drains the buffer to the client             service
10. one record of the stored stamps goes to the metrics       service, metrics
"""
