-- publish_job_states: writes the present state of these jobs to the job log and to the queue job_events. Every verb
-- that changes a job's state calls it in the same transaction, so neither can miss one. The message is put into the
-- queue's table as pgmq.send does it, without the statement that pgmq.send makes and plans anew for every call.
create or replace function publish_job_states(p_jobs uuid[], p_now timestamptz) returns void
language plpgsql
as $$
begin
  with changed as (
    select j.id, j.status, j.tenant_id, j.error from jobs j where j.id = any(p_jobs)
  ), logged as (
    insert into job_log (job_id, at, type, body)
    select id, p_now, 'job.' || status,
           case when error is null then jsonb_build_object('status', status)
                else jsonb_build_object('status', status, 'error', error) end
      from changed
  )
  insert into pgmq.q_job_events (vt, message)
  select clock_timestamp(), jsonb_build_object('type', 'job.' || status, 'job_id', id, 'tenant_id', tenant_id,
                                               'status', status, 'error', error, 'at', p_now)
    from changed;
end
$$;
