"""Plans of thoughts: what families that plan have in common, whatever space their thoughts live in.

plan.py is the value, arrangement.py and edits.py are what can be done with it, file.py is how it is
kept; thoughts.py makes thoughts of words and audio, activity.py reads them; harmony.py tells bars.
"""
