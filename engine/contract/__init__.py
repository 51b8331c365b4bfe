"""The vocabulary that the studio, the command line and the training share: stdlib, pydantic and yaml only."""
