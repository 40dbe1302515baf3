"""What the tokenizer service, the device service, the gateway and their users share."""
