"""What a user can get wrong, said in one line with the mend."""


class UserError(Exception):
    """Something a user can mend; commands print it as one line, without traceback.

    The message names the key or file at fault and says what to do. Exit status is 1.
    """
