"""The real pyannote.audio pipeline put together on the same two ONNX models: what `run.py` measures Dalston beside when
pyannote.audio can be installed. Parameters are those of pyannote/speaker-diarization-3.1.

    python bench/diarization/pyannote_peer.py SEGMENTATION_FOLDER EMBEDDING_FOLDER AUDIO.wav THREADS

Diarizes the file once for every line on standard input and answers with a line of JSON, as `reference.py` does.
"""
import json
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import torch

# torchaudio compares this with the CUDA it was built for and refuses to load; nothing here runs on CUDA.
torch.version.cuda = None

from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.pipelines import SpeakerDiarization

from reference import MIN_CLUSTER_SIZE, RATE, THRESHOLD, read, session

BATCH = 32


class OnnxSegmentation(Model):
    """A segmentation model that ONNX Runtime runs."""

    def __init__(self, path, threads):
        super().__init__(sample_rate=RATE)
        self.onnx = session(path, threads)
        self.input = self.onnx.get_inputs()[0].name
        facts = self.onnx.get_modelmeta().custom_metadata_map
        self.field, self.shift = int(facts["receptive_field_size"]), int(facts["receptive_field_shift"])
        tracks = int(facts["num_speakers"])
        self.specifications = Specifications(
            problem=Problem.MONO_LABEL_CLASSIFICATION, resolution=Resolution.FRAME,
            duration=int(facts["window_size"]) / RATE, classes=[f"speaker#{i}" for i in range(tracks)],
            powerset_max_classes=int(facts["powerset_max_classes"]), permutation_invariant=True)

    def receptive_field_size(self, num_frames=1):
        return self.field + (num_frames - 1) * self.shift

    def receptive_field_center(self, frame=0):
        return (self.field - 1) // 2 + frame * self.shift

    def num_frames(self, num_samples):
        return 1 + (num_samples - self.field) // self.shift

    def forward(self, waveforms):
        return torch.from_numpy(self.onnx.run(None, {self.input: waveforms.numpy()})[0])


def main():
    segmentation, embedding, audio, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory(prefix="wespeaker-") as folder:
        # The kind of the model is told by its path, and the repository's may hold other kinds' names.
        path = shutil.copy(Path(embedding) / "model.onnx", folder)
        pipeline = SpeakerDiarization(
            legacy=True, segmentation=OnnxSegmentation(f"{segmentation}/model.onnx", int(threads)).eval(),
            embedding=str(path), embedding_exclude_overlap=True, clustering="AgglomerativeClustering",
            # Only another kind of clustering reads it.
            plda=PLDA.__new__(PLDA),
            segmentation_batch_size=BATCH, embedding_batch_size=BATCH)
    pipeline.instantiate({
        "segmentation": {"min_duration_off": 0.0},
        "clustering": {"method": "centroid", "min_cluster_size": MIN_CLUSTER_SIZE, "threshold": THRESHOLD},
    })
    file = {"waveform": torch.from_numpy(read(audio).copy())[None], "sample_rate": RATE, "uri": "file"}
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        annotation = pipeline(file)
        turns = [(turn.start, turn.end, int(label.rsplit("_", 1)[1]))
                 for turn, _, label in annotation.itertracks(yield_label=True)]
        print(json.dumps({
            "audio_s": file["waveform"].shape[1] / RATE, "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "turns": turns,
        }), flush=True)


if __name__ == "__main__":
    main()
