"""The published steps of pyannote's SpeakerDiarization 3.1 in numpy and scipy, on ONNX Runtime: what `run.py` measures
Dalston beside. Every step is written down as pyannote.audio does it; the two models are read by the names in their files.

    python bench/diarization/reference.py SEGMENTATION_FOLDER EMBEDDING_FOLDER AUDIO.wav THREADS

Diarizes the file once for every line on standard input and answers with a line of JSON: seconds, peak memory, turns.
"""
import json
import resource
import sys
import time
import wave
from itertools import combinations

import numpy as np
import onnxruntime
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist

RATE = 16_000
STEP = 16_000
THRESHOLD = 0.7045654963945799
MIN_CLUSTER_SIZE = 12
MIN_ACTIVE_RATIO = 0.2
SEGMENTATION_BATCH = 32


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def read(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def mel_bank():
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)
    edges = np.linspace(mel(20), mel(RATE / 2), 82)
    bins = mel(np.arange(256) * RATE / 512)[None]
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32).T


BANK = mel_bank()
HAMMING = (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)).astype(np.float32)


def fbank(waveform):
    """Kaldi's log-mel features `[frames, 80]`."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform * 32768, 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - np.float32(0.97) * previous) * HAMMING
    spectrum = np.fft.rfft(frames, 512, axis=1)[:, :256]
    power = spectrum.real ** 2 + spectrum.imag ** 2
    return np.log(np.maximum(power @ BANK, np.float32(1.1920929e-7)))


class Pipeline:
    def __init__(self, segmentation, embedding, threads):
        self.segmentation = session(f"{segmentation}/model.onnx", threads)
        self.embedding = session(f"{embedding}/model.onnx", threads)
        facts = self.segmentation.get_modelmeta().custom_metadata_map
        self.window = int(facts["window_size"])
        self.field, self.shift = int(facts["receptive_field_size"]), int(facts["receptive_field_shift"])
        tracks, most = int(facts["num_speakers"]), int(facts["powerset_max_classes"])
        sets = [group for size in range(most + 1) for group in combinations(range(tracks), size)]
        self.powerset = np.array([[track in group for track in range(tracks)] for group in sets], np.float32)

    def windows(self, waveform):
        starts = list(range(0, len(waveform) - self.window + 1, STEP))
        if len(waveform) < self.window or (len(waveform) - self.window) % STEP:
            starts.append(len(starts) * STEP)
        for start in starts:
            window = waveform[start:start + self.window]
            yield np.pad(window, (0, self.window - len(window)))

    def segment(self, windows):
        """`[windows, frames, tracks]`, 0 or 1, and the classes behind them."""
        name = self.segmentation.get_inputs()[0].name
        scores = [self.segmentation.run(None, {name: np.stack(windows[at:at + SEGMENTATION_BATCH])[:, None]})[0]
                  for at in range(0, len(windows), SEGMENTATION_BATCH)]
        self.classes = np.concatenate(scores).argmax(-1)
        return self.powerset[self.classes]

    def embed(self, windows, binary):
        """`[windows, tracks, dimensions]`; NaN for a track without speech."""
        name = self.embedding.get_inputs()[0].name
        embeddings = np.full((*binary.shape[::2], self.embedding.get_outputs()[0].shape[1]), np.nan, np.float32)
        clean = binary * (binary.sum(2, keepdims=True) < 2)
        for c, window in enumerate(windows):
            features = fbank(window)
            features = features - features.mean(axis=0)
            stretch = np.arange(len(features)) * binary.shape[1] // len(features)
            for k in range(binary.shape[2]):
                if not binary[c, :, k].any():
                    continue
                mask = clean[c, :, k] if clean[c, :, k].sum() > 2 else binary[c, :, k]
                kept = features[mask[stretch] > 0.5]
                if len(kept):
                    embeddings[c, k] = self.embedding.run(None, {name: kept[None]})[0][0]
        return embeddings

    def diarize(self, waveform, speakers=None):
        windows = list(self.windows(waveform))
        binary = self.segment(windows)
        self.count = self.speaker_count(binary)
        self.embeddings = self.embed(windows, binary)
        self.clusters = assign(self.embeddings, binary, speakers)
        self.clusters[binary.sum(1) == 0] = -2
        return self.turns(self.reconstruct(binary))

    def starts(self, n_windows):
        return np.rint(np.arange(n_windows) / (self.shift / RATE)).astype(int)

    def aggregate(self, scores):
        """Sum and number of the windows over each frame of the file."""
        n_frames = scores.shape[1]
        total = int(np.rint((self.window / RATE + len(scores) - 1) / (self.shift / RATE))) + 1
        sums, votes = np.zeros((total, scores.shape[2])), np.zeros((total, 1))
        for start, score in zip(self.starts(len(scores)), scores):
            sums[start:start + n_frames] += score
            votes[start:start + n_frames] += 1
        return sums, votes

    def speaker_count(self, binary):
        sums, votes = self.aggregate(binary.sum(2, keepdims=True))
        return np.rint(sums[:, 0] / np.maximum(votes[:, 0], 1)).astype(np.uint8)

    def reconstruct(self, binary):
        n_clusters = self.clusters.max() + 1
        activity = np.zeros((*binary.shape[:2], max(n_clusters, 1)))
        for c, row in enumerate(self.clusters):
            for k in set(row) - {-2}:
                activity[c, :, k] = binary[c][:, row == k].max(axis=1)
        sums, _ = self.aggregate(activity)
        order = np.argsort(-sums, axis=1, kind="stable")
        speaking = np.zeros(sums.shape, bool)
        for t, n in enumerate(self.count[:len(sums)]):
            speaking[t, order[t, :n]] = True
        return speaking

    def turns(self, speaking):
        middle = lambda frame: frame * self.shift / RATE + self.field / RATE / 2
        found = []
        for speaker, track in enumerate(speaking.T):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], track.astype(np.int8), [0]])))
            for begin, end in edges.reshape(-1, 2):
                found.append((middle(begin), middle(min(end, len(track) - 1)), speaker))
        return sorted(found)


def assign(embeddings, binary, speakers):
    """The cluster of every track of every window."""
    single = binary.sum(2, keepdims=True) == 1
    active = (binary * single).sum(1) >= MIN_ACTIVE_RATIO * binary.shape[1]
    chosen = active & ~np.isnan(embeddings).any(2)
    train = embeddings[chosen]
    if len(train) < 2 or speakers == 1:
        return np.zeros(embeddings.shape[:2], int)
    clusters = cluster(train, speakers)
    centroids = np.stack([train[clusters == k].mean(axis=0) for k in range(clusters.max() + 1)])
    flat = cdist(embeddings.reshape(-1, embeddings.shape[2]), centroids, "cosine")
    return np.argmax(2 - flat, axis=1).reshape(embeddings.shape[:2])


def cluster(train, speakers):
    smallest = min(MIN_CLUSTER_SIZE, max(1, round(0.1 * len(train))))
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    tree = linkage(unit, "centroid")

    def cut(tree, at):
        clusters = fcluster(tree, at, "distance") - 1
        names, sizes = np.unique(clusters, return_counts=True)
        return clusters, names[sizes >= smallest], names[sizes < smallest]

    clusters, large, small = cut(tree, THRESHOLD)
    if speakers and len(large) != speakers:
        steps = tree.copy()
        steps[:, 2] = np.arange(len(tree))
        best = (len(train) - 1, 1)
        for at in np.argsort(np.abs(tree[:, 2] - THRESHOLD)):
            if tree[at, 3] < smallest:
                continue
            found = len(cut(steps, at)[1])
            if abs(found - speakers) < abs(best[1] - speakers):
                best = (at, found)
            if found == speakers:
                break
        clusters, large, small = cut(steps, best[0])
    if len(large) == 0:
        return np.zeros(len(train), int)
    if len(small):
        centroids = lambda names: np.stack([unit[clusters == k].mean(axis=0) for k in names])
        nearest = cdist(centroids(large), centroids(small), "cosine").argmin(axis=0)
        for k, to in zip(small, nearest):
            clusters[clusters == k] = large[to]
    return np.unique(clusters, return_inverse=True)[1]


def main():
    segmentation, embedding, audio, threads = sys.argv[1:]
    pipeline, waveform = Pipeline(segmentation, embedding, int(threads)), read(audio)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        turns = pipeline.diarize(waveform)
        print(json.dumps({
            "audio_s": len(waveform) / RATE, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "turns": turns,
        }), flush=True)


if __name__ == "__main__":
    main()
