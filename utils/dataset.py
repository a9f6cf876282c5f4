"""Any collection of videos in one folder per class.

root/wave/anna_1.mp4
root/wave/ben_1.mp4
root/jump/anna_2.mp4      ->  classes ("jump", "wave")
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import safe_open, save_file
from tqdm.auto import tqdm

from utils.paths import whole_file
from utils.video import VIDEO_SUFFIXES, VideoError, read_frames


class VideoFolder:
    """A list of (clip, label) read from `root/<class>/<video>`; usable with a torch DataLoader.

    Shapes: clip (num_frames, *size, 3) uint8 RGB, label an int that indexes `classes` (sorted, or
    as given). `size`, `sampling` and `pad` as in `read_frames`; for "random" set `epoch` before each
    epoch, and every clip shows other frames in it (the workers of a DataLoader are copies: they see
    the new `epoch` only when they are started anew, so without `persistent_workers`). VideoError when
    the folder is missing, has no class folders, holds an unknown class, or a class without a video.
    What is no video by its name is in `passed_over`; `told_passed_over()` says it in words.
    """

    def __init__(self, root, num_frames, size, sampling="uniform", pad=False, classes=None, seed=0):
        self.root = Path(root)
        if not self.root.is_dir():
            raise VideoError(f"{self.root}: no such folder; it should hold one folder per class")
        found = sorted(p.name for p in self.root.iterdir() if p.is_dir() and not _foreign(p))
        if not found:
            raise VideoError(f"{self.root}: holds no folders; it should hold one per class")
        self.classes = tuple(classes or found)
        if set(found) != set(self.classes):
            odd = sorted(set(found) ^ set(self.classes))
            raise VideoError(f"{self.root}: the folders and the classes {self.classes} differ in {odd}")  # fmt: skip
        self.num_frames, self.size, self.sampling, self.pad = num_frames, size, sampling, pad
        self.seed, self.epoch = seed, 0
        self.paths, self.labels, self.passed_over = [], [], []
        for label, name in enumerate(self.classes):
            there = [p for p in sorted((self.root / name).iterdir()) if not _foreign(p)]
            files = [p for p in there if p.suffix.lower() in VIDEO_SUFFIXES and not p.is_dir()]
            self.passed_over += [p for p in there if p not in files]
            if not files:
                others = f", only {self.told_passed_over(there)}" if there else ""
                raise VideoError(f"{self.root / name}: no video in this class folder{others}")
            self.paths += files
            self.labels += [label] * len(files)

    def told_passed_over(self, paths=None):
        """What lies in the class folders and is not read: `passed_over`, in words."""
        paths = self.passed_over if paths is None else paths
        kinds = {"files whose names do not end as a video's": False, "folders inside a class folder": True}  # fmt: skip
        told = {kind: [f"{p.relative_to(self.root)}" for p in paths if p.is_dir() == folder] for kind, folder in kinds.items()}  # fmt: skip
        return "; ".join(f"{kind}: {_few(names)}" for kind, names in told.items() if names)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        index = range(len(self))[index]  # -1 is the last one; beyond the end is an IndexError
        seed = (self.seed, self.epoch, index)
        clip = read_frames(self.paths[index], self.num_frames, self.size, self.sampling, self.pad, seed)  # fmt: skip
        return clip, self.labels[index]

    def load(self, cache=None, progress=True):
        """Decode everything: clips (n, num_frames, *size, 3) uint8 and labels (n,) int64.

        With `cache` (a file) it is decoded once. The cache is rebuilt when a video was added,
        removed or changed, when it is read in another way, or when the cache file is damaged. It
        takes its name only when it is complete. Files that cannot be read are one VideoError
        that lists them all.
        """
        if cache is not None and isinstance(self.sampling, str) and self.sampling == "random":
            raise ValueError("a cache would freeze random sampling; read the clips one by one instead")  # fmt: skip
        fingerprint = self._fingerprint()
        if cache is not None and (stored := _read_cache(cache, fingerprint)):
            return stored
        clips = self._decode(progress)
        labels = np.array(self.labels, dtype=np.int64)
        if cache is not None:
            metadata = {"fingerprint": fingerprint, "sha256": _digest(clips, labels)}
            with whole_file(cache) as part:
                save_file({"clips": clips, "labels": labels}, part, metadata)
        return clips, labels

    def leave_out_unreadable(self, progress=True):
        """Forget the videos that cannot be read as asked; returns {path: reason} for each of them.

        For a messy folder of one's own: look at the reasons, and repair what can be repaired. VideoError when a
        class is left without a video.
        """
        _, broken = self._read_all(progress)
        kept = [k for k, path in enumerate(self.paths) if path not in broken]
        for label, name in enumerate(self.classes):
            if not any(self.labels[k] == label for k in kept):
                raise VideoError(f"{self.root / name}: no video in it can be read:\n" + "\n".join(sorted(broken.values())))  # fmt: skip
        self.paths = [self.paths[k] for k in kept]
        self.labels = [self.labels[k] for k in kept]
        return broken

    def _read_all(self, progress):
        """Every clip, None for one that cannot be read, and {path: why it cannot}."""
        broken = {}

        def read(index):
            try:
                return self[index][0]
            except VideoError as error:
                broken[self.paths[index]] = str(error)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            work = pool.map(read, range(len(self)))
            how = dict(unit="clip", disable=not progress, leave=False)
            clips = list(tqdm(work, f"decoding {self.root.name}", len(self), **how))
        return clips, {path: broken[path] for path in self.paths if path in broken}

    def _decode(self, progress):
        clips, broken = self._read_all(progress)
        if broken:
            raise VideoError(
                f"{len(broken)} of {len(self)} videos cannot be read (leave_out_unreadable() goes on "
                "without them):\n" + "\n".join(broken.values())
            )
        odd = next((k for k, clip in enumerate(clips) if clip.shape != clips[0].shape), None)
        if odd is not None:
            raise VideoError(
                f"{self.paths[odd]}: {_told(clips[odd])}, but {self.paths[0]}: {_told(clips[0])}; "
                "give num_frames and size, so that all clips are alike"
            )
        return np.stack(clips)

    def _fingerprint(self):
        files = [(p.relative_to(self.root).as_posix(), *_size_and_time(p)) for p in self.paths]
        how = (self.classes, self.num_frames, self.size, self.sampling, self.pad, cv2.__version__)
        text = json.dumps([files, how], default=lambda array: array.tolist())
        return hashlib.sha256(text.encode()).hexdigest()


def _size_and_time(path):
    try:
        status = path.stat()
    except OSError:  # a link to nothing: reading it says so
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _foreign(path):
    """What systems leave in folders: .DS_Store, Thumbs.db, __MACOSX."""
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _few(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _told(clip):
    t, height, width, _ = clip.shape
    return f"{t} frames of {height} x {width}"


def _digest(clips, labels):
    digest = hashlib.sha256(np.ascontiguousarray(clips))
    digest.update(labels)
    return digest.hexdigest()


def _read_cache(cache, fingerprint):
    """The cached clips and labels, or None when they are missing, stale or damaged."""
    try:
        with safe_open(cache, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            clips, labels = file.get_tensor("clips"), file.get_tensor("labels")
    except (OSError, SafetensorError):
        return None
    return (clips, labels) if metadata.get("sha256") == _digest(clips, labels) else None
