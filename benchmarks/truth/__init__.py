"""The truth table: small networks trained alone, and what can be said about rankings because of them.

`README.md` beside this file says what is in it, and in which order it was decided.
"""
