"""makelm, the library: what the stages in scripts/ are made of.

No module here parses arguments for a person, knows a folder or prints, but the plumbing:
cli (the frame of a stage), progress (what a person sees) and manifest (what a stage leaves behind).
"""
