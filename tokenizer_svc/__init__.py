"""The tokenizer service: text and conversations to ids, ids to text that is safe to show."""
