"""What vLLM's worker processes say of themselves where several devices share a model (`worker_extension_cls`, asked by name)."""

from ptqflow.devices.device import select


class RankMemory:
    """Mixed into each rank's worker."""

    def ptqflow_reset_peak(self, platform: str) -> None:
        """Start a new measurement of the rank's peak memory."""
        select(platform).reset_peak()

    def ptqflow_peak_bytes(self, platform: str) -> int:
        """Peak bytes of the rank's device since then; on a CPU, of its process."""
        return select(platform).peak_bytes()
