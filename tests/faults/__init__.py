"""Fault tests: each promise about what is kept, tried with real faults and counted.

Rules that must stay true:
- a case is a sequence of numbered rounds; the number is the seed of all that is chosen in a round, so that a round
  can be repeated, and a long examination goes on where it ended;
- every case has bugs that can be planted, in the test and never in the product; one that is not found fails the
  case, for a test that finds nothing proves nothing;
- what was found is never counted away: one anomaly fails the examination.

`python -m faults` examines every case and prints one table; `test_faults.py` runs a small sample of each.
"""
