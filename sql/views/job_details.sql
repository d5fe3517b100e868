-- job_details: a job as the API reads it.
create view job_details as
select j.id, j.tenant_id, j.created_by_key_id, j.status, j.display_name, j.parameters, j.audio_key, j.audio_format,
       j.audio_duration_seconds, j.audio_sample_rate, j.audio_channels, j.audio_bit_depth, j.error,
       job_progress(j.id, j.status) as progress, job_stage(j.id, j.status) as current_stage,
       job_eta(j.id, j.status) as eta_seconds,
       j.created_at, j.started_at, j.completed_at, j.retention_days, j.purge_after, j.purged_at,
       j.result_language_code, j.result_word_count, j.result_segment_count, j.result_speaker_count,
       j.result_character_count
  from jobs j;

comment on view job_details is 'A job as the API reads it. Operators look at job_overview.';
comment on column job_details.progress is 'Share of the work done, 0 to 1.';
comment on column job_details.current_stage is 'Stage being worked on.';
comment on column job_details.eta_seconds is 'Seconds until it is expected to be done.';
