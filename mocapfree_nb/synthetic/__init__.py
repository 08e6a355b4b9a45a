"""How the synthetic human moves and how it is described; lesson 06 tells the ideas, `procedural` is its front."""
