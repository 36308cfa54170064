"""`relay bench`: load against a whole relay, with clients that check every byte. run.py begins it."""
