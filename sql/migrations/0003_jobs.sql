-- Bounds of single columns are domains: PostgreSQL reads a domain's check once in a session, a table's checks again in
-- every statement that writes the table, which a claim or a completion would pay for each time.
create domain job_status as text check (value in ('pending', 'running', 'completed', 'failed', 'cancelling', 'cancelled'));
create domain whole_number as int check (value >= 0);
create domain small_whole_number as smallint check (value >= 0);
create domain positive_int as int check (value > 0);
create domain byte_count as bigint check (value >= 0);
create domain seconds as double precision check (value >= 0);
create domain positive_smallint as smallint check (value > 0);
create domain filled_text as text check (value <> '');
create domain some_ids as uuid[] check (cardinality(value) > 0);
create domain display_name as text check (length(value) between 1 and 255);
create domain retention_days as int check (value between -1 and 3650);

comment on domain job_status is 'State of a job.';
comment on domain whole_number is 'How many; never negative.';
comment on domain small_whole_number is 'How many, where that is few; never negative.';
comment on domain positive_int is 'How many; at least one.';
comment on domain positive_smallint is 'How many, where that is few; at least one.';
comment on domain byte_count is 'Size in bytes.';
comment on domain seconds is 'A length of audio.';
comment on domain filled_text is 'A text that says something.';
comment on domain some_ids is 'Ids of rows; at least one.';
comment on domain display_name is 'A name shown to people, 1 to 255 characters.';
comment on domain retention_days is 'Days to keep something after its end; 0 none, -1 for ever.';

create table jobs (
  id                      uuid primary key,
  tenant_id               uuid not null references tenants,
  created_by_key_id       uuid,
  status                  job_status not null default 'pending',
  display_name            display_name not null,
  parameters              jsonb not null,
  priority                smallint not null default 100,
  fair_key                bigint not null,
  open_ends               whole_number not null,
  audio_key               text,
  audio_format            text not null,
  audio_duration_seconds  seconds not null,
  audio_sample_rate       positive_int not null,
  audio_channels          positive_int not null,
  audio_bit_depth         int,
  audio_size_bytes        byte_count not null,
  error                   text,
  idempotency_key         text,
  idempotency_fingerprint text,
  request_id              text,
  created_at              timestamptz not null,
  started_at              timestamptz,
  cancel_requested_at     timestamptz,
  completed_at            timestamptz,
  retention_days          retention_days not null,
  purge_after             timestamptz,
  purged_at               timestamptz,
  audio_deleted_at        timestamptz,
  objects_deleted_at      timestamptz,
  result_language_code    text,
  result_word_count       int,
  result_segment_count    int,
  result_speaker_count    int,
  result_character_count  int,
  constraint a_finished_job_has_an_end check ((status in ('completed', 'failed', 'cancelled')) = (completed_at is not null)),
  constraint a_completed_job_has_no_open_end check (status <> 'completed' or open_ends = 0),
  constraint a_failed_job_says_why check (status <> 'failed' or error is not null),
  constraint a_cancelling_job_was_asked_to check (status not in ('cancelling', 'cancelled') or cancel_requested_at is not null),
  constraint a_purged_job_is_finished check (purged_at is null or completed_at is not null)
) with (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.02);

create index jobs_of_tenant on jobs (tenant_id, created_at desc, id desc);
create index jobs_of_key on jobs (created_by_key_id, created_at desc, id desc);
create unique index jobs_idempotency_key on jobs (tenant_id, idempotency_key) where idempotency_key is not null;
create index jobs_unfinished on jobs (tenant_id) where completed_at is null;
create index jobs_finished on jobs (completed_at) where completed_at is not null;
create index jobs_to_purge on jobs (purge_after) where purge_after is not null and objects_deleted_at is null;

comment on table jobs is 'What a user asked for: one upload, its parameters, its state and the counts of its result. Locking this row (for no key update) is the right to change the job''s tasks; see sql/README.md.';
comment on column jobs.id is 'The job; UUID version 7, so ids sort by time.';
comment on column jobs.tenant_id is 'The tenant that owns it.';
comment on column jobs.created_by_key_id is 'The API key it was submitted with; no foreign key, because deleting a key must not touch jobs.';
comment on column jobs.status is 'pending -> running (first claim) -> completed | failed; pending or running -> cancelling (tasks still run) -> cancelled.';
comment on column jobs.display_name is 'Name shown to people.';
comment on column jobs.parameters is 'What was asked for, as JSON.';
comment on column jobs.priority is 'Lower runs first; 100 is normal. Copied to the tasks; change it with set_priority().';
comment on column jobs.fair_key is 'Place in the fair order between tenants, from submit_job. Copied to the tasks.';
comment on column jobs.open_ends is 'Unfinished tasks that nothing depends on (normally one, merge). The job is completed when it reaches 0; tasks in the middle never touch this row.';
comment on column jobs.audio_key is 'Object-store key of the original; null once deleted or purged.';
comment on column jobs.audio_format is 'Container of the original, for example wav.';
comment on column jobs.audio_duration_seconds is 'Length of the original.';
comment on column jobs.audio_sample_rate is 'Samples a second of the original.';
comment on column jobs.audio_channels is 'Channels of the original.';
comment on column jobs.audio_bit_depth is 'Bits a sample of the original, where the codec has such a thing.';
comment on column jobs.audio_size_bytes is 'Size of the original.';
comment on column jobs.error is 'Why it failed, in words for the user.';
comment on column jobs.idempotency_key is 'The client''s Idempotency-Key, unique within the tenant.';
comment on column jobs.idempotency_fingerprint is 'Fingerprint of the request, to refuse the same key with another request.';
comment on column jobs.request_id is 'X-Request-ID of the submit.';
comment on column jobs.created_at is 'When it was submitted.';
comment on column jobs.started_at is 'When its first task was claimed.';
comment on column jobs.cancel_requested_at is 'When its cancellation was asked for.';
comment on column jobs.completed_at is 'When it reached a final state.';
comment on column jobs.retention_days is 'Days to keep it after its end; 0 purges at once, -1 keeps for ever.';
comment on column jobs.purge_after is 'When it will be purged; null before its end and when kept for ever.';
comment on column jobs.purged_at is 'When its transcript and payloads were purged; the row stays.';
comment on column jobs.audio_deleted_at is 'When the user deleted its audio; transcript and tasks stay.';
comment on column jobs.objects_deleted_at is 'When everything of a purged job was deleted from the object store; until then purge_expired_jobs() names it again.';
comment on column jobs.result_language_code is 'Language of the transcript.';
comment on column jobs.result_word_count is 'Words of the transcript.';
comment on column jobs.result_segment_count is 'Segments of the transcript.';
comment on column jobs.result_speaker_count is 'Speakers of the transcript.';
comment on column jobs.result_character_count is 'Characters of the transcript.';
