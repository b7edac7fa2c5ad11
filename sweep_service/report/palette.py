"""Colours that everybody can tell apart."""

# Okabe and Ito's palette without yellow (too faint on white): told apart with every common colour blindness, and
# together with markers and dashes in grey too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

# The scale cividis, even in lightness and the same to the colour-blind, without its pale end, hardly seen on white.
CIVIDIS = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369")
