"""A world of few places, to simulate photographs in."""

import torch

from locdiff.data import simulated
from locdiff.data.geoclip import gallery_places


def small_world(monkeypatch, geoclip):
    """Let a smaller GeoCLIP's gallery stand for its own, a third of whose places stand in it twice; return them."""
    places = gallery_places("mp16")[:90]
    places = torch.cat([places, places[:30]])
    monkeypatch.setattr(simulated, "gallery_places", {"mp16": places}.__getitem__)
    monkeypatch.setattr(simulated, "GeoClip", lambda: geoclip)
    return places
