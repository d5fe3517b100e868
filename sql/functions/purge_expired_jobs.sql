-- purge_expired_jobs: purges jobs past their retention: transcript, payloads and what the log says of the text are
-- deleted, the row stays. Answers the jobs whose objects must go; one that is not confirmed by confirm_purged is named
-- again, so a crash in between leaves nothing behind. Within p_grace_seconds of its time a job is left alone: of one that
-- is not to be kept at all, somebody may just be reading the transcript. Called by maintenance.
create or replace function purge_expired_jobs(p_limit int, p_grace_seconds double precision default 0) returns setof uuid
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_all uuid[];
  v_new uuid[];
begin
  select array_agg(due.id), array_agg(due.id) filter (where due.purged_at is null) into v_all, v_new
    from (select j.id, j.purged_at from jobs j
           where j.purge_after <= v_now - make_interval(secs => p_grace_seconds) and j.objects_deleted_at is null
           order by j.purge_after limit p_limit for no key update skip locked) due;
  if v_new is not null then
    delete from transcripts where job_id = any(v_new);
    delete from job_log where job_id = any(v_new) and type = 'transcript.segments';
    delete from task_payloads where task_id in (select id from tasks where job_id = any(v_new));
    update jobs set purged_at = v_now, audio_key = null where id = any(v_new);
    perform pgmq.send_batch('job_events', array(
      select jsonb_build_object('type', 'job.purged', 'job_id', id, 'tenant_id', tenant_id, 'at', v_now)
        from jobs where id = any(v_new)));
  end if;
  return query select unnest(v_all);
end
$$;
