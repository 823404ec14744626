"""Changed copies of a picture, one module for each kind of change.

An augmentation defines `draw(random) -> parameters`, a small dict of plain numbers that goes into metadata.jsonl, and
either `cut(cut, parameters) -> Cut`, a change of what is drawn, or `pixels(picture, parameters)`, a change of the drawn
picture. The parameters say all: the same ones give the same picture.
"""
