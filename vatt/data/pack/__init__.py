"""`vatt data pack`: media files to shards that decode fast."""

from vatt.data.pack.job import PackResult, pack
from vatt.data.pack.plan import PackError, PackJob
from vatt.data.pack.transcode import QUALITY, SOUNDS

__all__ = ["QUALITY", "SOUNDS", "PackError", "PackJob", "PackResult", "pack"]
