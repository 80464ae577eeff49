"""One user's Chromium: open, see, act, take input, close; reports through callbacks and knows no database."""
