//! What workers measure and the API shows at `/metrics`. The names are the reference server's.

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// From the moment a task could be claimed to its claim, by `stage`.
    QueueWait,
    /// Attempts that ended, by `stage` and `status`.
    TasksProcessed,
    /// How long they took, by `stage` and `status`.
    TaskDuration,
    /// Attempts that were taken from workers that stopped answering.
    TasksTimedOut,
    /// Seconds of work per second of audio, by `stage` and `model`.
    RealtimeFactor,
    /// How long loading a model took, by `model`.
    ModelLoad,
}

const SECONDS: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];
const RATIOS: &[f64] = &[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

impl Measure {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::QueueWait,
        Self::TasksProcessed,
        Self::TaskDuration,
        Self::TasksTimedOut,
        Self::RealtimeFactor,
        Self::ModelLoad,
    ];

    /// Its name, without the prefix that all metrics of this program have.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueWait => "engine_queue_wait_seconds",
            Self::TasksProcessed => "engine_tasks_processed_total",
            Self::TaskDuration => "engine_task_duration_seconds",
            Self::TasksTimedOut => "orchestrator_tasks_timed_out_total",
            Self::RealtimeFactor => "engine_realtime_factor_ratio",
            Self::ModelLoad => "engine_model_load_seconds",
        }
    }

    /// A sentence on it.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::QueueWait => "How long tasks could be claimed before a worker did.",
            Self::TasksProcessed => "Attempts at tasks that ended.",
            Self::TaskDuration => "How long attempts at tasks took.",
            Self::TasksTimedOut => "Attempts taken from workers that stopped answering.",
            Self::RealtimeFactor => "Seconds of work per second of audio.",
            Self::ModelLoad => "How long loading a model took.",
        }
    }

    /// Upper bounds of its buckets but the last, which has none; empty for what is only counted.
    #[must_use]
    pub const fn bounds(self) -> &'static [f64] {
        match self {
            Self::QueueWait | Self::TaskDuration | Self::ModelLoad => SECONDS,
            Self::RealtimeFactor => RATIOS,
            Self::TasksProcessed | Self::TasksTimedOut => &[],
        }
    }

    /// The bound of the bucket that a value falls into.
    #[must_use]
    pub fn bucket(self, value: f64) -> f64 {
        let mut bounds = self.bounds().iter().copied();
        bounds
            .find(|bound| value <= *bound)
            .unwrap_or(f64::INFINITY)
    }
}
