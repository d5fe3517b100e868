-- delete_job: deletes every row of a finished job. Its objects are the caller's to delete afterwards: rows first, so
-- that no row ever points at nothing. Called by the API. Outcomes: done, refused (not finished), missing.
create or replace function delete_job(p_job uuid, out outcome text, out status text)
language plpgsql
as $$
declare
  v_job jobs;
begin
  select * into v_job from jobs where id = p_job for update;
  status := v_job.status;
  if v_job.id is null then
    outcome := 'missing';
  elsif v_job.completed_at is null then
    outcome := 'refused';
  else
    delete from jobs where id = p_job;
    delete from job_log where job_id = p_job;
    perform pgmq.send('job_events', jsonb_build_object('type', 'job.deleted', 'job_id', p_job,
                                                       'tenant_id', v_job.tenant_id, 'at', dalston_now()));
    outcome := 'done';
  end if;
end
$$;
