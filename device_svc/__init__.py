"""One chip group that runs one bmodel: sessions, scheduler and the thread that owns the engine."""
