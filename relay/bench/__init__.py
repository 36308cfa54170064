"""`relay bench`: load on a whole relay, with clients that check every byte. It starts in run.py."""
