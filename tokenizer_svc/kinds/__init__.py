"""The tokenizer formats, behind `tokenizer_svc.tokenizer.Tokenizer`."""
