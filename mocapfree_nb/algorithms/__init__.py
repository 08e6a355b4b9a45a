"""Other ways to follow a reward, one module each, all in the trainer's place."""
