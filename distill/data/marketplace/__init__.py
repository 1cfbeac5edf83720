"""The embedded marketplace: simulated listings, searches, clicks and judge, with the truth known."""

from distill.data.marketplace.world import World
from distill.data.marketplace.write import write_marketplace

__all__ = ["World", "write_marketplace"]
