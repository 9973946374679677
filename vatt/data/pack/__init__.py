"""`vatt data pack`: media files to shards that decode fast."""

from vatt.data.pack.job import PackJob, PackResult, pack
from vatt.data.pack.plan import PackError
from vatt.data.pack.transcode import QUALITY, SOUNDS

__all__ = ["QUALITY", "SOUNDS", "PackError", "PackJob", "PackResult", "pack"]
