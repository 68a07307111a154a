"""Calls of a function, counted."""


def count_calls(monkeypatch, owner, name):
    """Return a list to which every later call of owner.name adds its arguments; the function does what it did."""
    calls, original = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls
