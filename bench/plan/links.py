"""Time that ranks spend on sending, on two levels of links: within a node and between nodes.

A collective of V bytes on n ranks sends (n - 1) / n V from each rank where it gathers or scatters (ring), twice that
where it reduces for all. On two levels the g ranks of a node exchange among themselves, then each of them exchanges its
V / g with those of the M nodes that hold the same part; the two times are added, as if nothing ran beside another.
"""

from __future__ import annotations

from dataclasses import dataclass

ONCE, TWICE = 1, 2  # all-gather or reduce-scatter; all-reduce


@dataclass(frozen=True)
class Links:
    """Ranks, and what each of them sends in one direction at once, bytes a second; seconds to start a collective."""

    ranks: int
    per_node: int
    intra: float
    inter: float
    latency: float

    @property
    def nodes(self) -> int:
        return self.ranks // self.per_node

    def sent(self, volume: float, passes: int) -> tuple[float, float]:
        """Bytes that each rank sends within its node and to other nodes."""
        g, nodes = self.per_node, self.nodes
        return passes * (g - 1) / g * volume, passes * (nodes - 1) / nodes * volume / g

    def seconds(self, volume: float, passes: int, messages: int = 1) -> float:
        """Of one collective of ``volume`` bytes, or of several that make it up together; 0 with one rank."""
        if self.ranks == 1:
            return 0.0
        intra, inter = self.sent(volume, passes)
        return intra / self.intra + inter / self.inter + messages * self.latency
