//! The files of `sql/`, carried in the program. A test compares these lists with the folders.

/// One file: its name without extension, and its text.
pub(super) type SqlFile = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../sql/", $folder, "/", $name, ".sql")))),+]
    };
}

/// pgmq as plain SQL.
pub(super) const PGMQ: &str = include_str!("../../../../sql/vendor/pgmq.sql");

/// Applied once each, in this order.
pub(super) const MIGRATIONS: &[SqlFile] = files!["migrations":
    "0001_tenants",
    "0002_api_keys",
    "0003_jobs",
    "0004_capabilities",
    "0005_workers",
    "0006_tasks",
    "0007_task_payloads",
    "0008_transcripts",
    "0009_job_log",
    "0010_fair_clock",
    "0011_audit_log",
    "0012_request_counts",
    "0013_job_events_queue",
    "0014_capability_details",
    "0015_models",
];

/// One function each, named like its file; replaced whenever a file changes.
pub(super) const FUNCTIONS: &[SqlFile] = files!["functions":
    "add_tasks",
    "advance_fair_clock",
    "announce_models",
    "cancel_attempt",
    "cancel_job",
    "capability_id",
    "capability_offer",
    "check_leases",
    "claim_model_copy",
    "claim_model_pull",
    "claim_tasks",
    "complete_task",
    "complete_tasks",
    "confirm_purged",
    "create_api_key",
    "dalston_now",
    "delete_job",
    "delete_job_audio",
    "deregister_worker",
    "describe_model",
    "drain_worker",
    "edit_model",
    "end_attempt",
    "end_leases",
    "end_model_copy",
    "end_model_pull",
    "end_task",
    "ensure_admin_key",
    "extend_leases",
    "extend_model_pull",
    "fail_task",
    "fail_unserved_tasks",
    "fan_out",
    "forget_workers",
    "give_back_model_pull",
    "give_back_task",
    "give_back_tasks",
    "hold_tasks",
    "job_eta",
    "job_progress",
    "job_stage",
    "job_stats",
    "model_is_present",
    "open_tasks",
    "promote_held",
    "promote_scheduled",
    "publish_job_states",
    "purge_expired_jobs",
    "queue_tasks",
    "register_worker",
    "remove_model",
    "rename_job",
    "reopen_task",
    "reopen_tasks",
    "request_model_pull",
    "rescue_tasks",
    "retry_job",
    "retry_task",
    "search_transcripts",
    "set_priority",
    "set_tenant_cap",
    "settle_tasks",
    "store_transcript",
    "submit_job",
    "sync_models",
    "take_fair_key",
    "take_request",
    "task_state",
    "task_status",
    "trim_logs",
    "unfinished_jobs",
    "use_api_key",
    "withdraw_tasks",
    "worker_heartbeat",
];

/// One view each, in an order in which each needs only earlier ones; replaced whenever a function or view changes.
pub(super) const VIEWS: &[SqlFile] = files!["views":
    "current_tasks",
    "task_edges",
    "job_history",
    "job_details",
    "task_details",
    "worker_details",
    "offered_capabilities",
    "job_overview",
    "task_overview",
    "queue_depth",
    "worker_status",
    "stuck_tasks",
    "tenant_usage",
    "model_registry",
];
