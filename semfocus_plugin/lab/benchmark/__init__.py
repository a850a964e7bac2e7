"""How well methods focus: trials on the emulator, through the shipped driver, against the emulator's ground truth."""
