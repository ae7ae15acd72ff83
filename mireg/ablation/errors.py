"""What a user can put right, said in one line."""


class UserError(Exception):
    """A bad request or a missing resource: the message names it and the remedy."""
