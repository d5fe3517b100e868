-- publish_job_states: writes the present state of these jobs to the job log and to the queue job_events. Every verb
-- that changes a job's state calls it in the same transaction, so neither can miss one.
create or replace function publish_job_states(p_jobs uuid[], p_now timestamptz) returns void
language plpgsql
as $$
declare
  v_messages jsonb[];
begin
  with changed as (
    select j.id, j.status, j.tenant_id, j.error from unnest(p_jobs) as p (id) join jobs j using (id)
  ), logged as (
    insert into job_log (job_id, at, type, body)
    select id, p_now, 'job.' || status,
           case when error is null then jsonb_build_object('status', status)
                else jsonb_build_object('status', status, 'error', error) end
      from changed
  )
  select array_agg(jsonb_build_object('type', 'job.' || status, 'job_id', id, 'tenant_id', tenant_id,
                                      'status', status, 'error', error, 'at', p_now))
    into v_messages from changed;
  if v_messages is not null then
    perform pgmq.send_batch('job_events', v_messages);
  end if;
end
$$;
