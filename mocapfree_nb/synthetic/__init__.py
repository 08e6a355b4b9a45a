"""How the synthetic human moves and how it is described; lesson 05 tells the ideas, `procedural` is its front."""
