-- retry_job: opens everything of a failed or cancelled job that is not completed, with fresh attempts. Called by
-- operators and the API. Outcomes: done, refused (unfinished, completed, purged or without its audio), missing.
create or replace function retry_job(p_job uuid, out outcome text, out status text, out ready int[])
language plpgsql
as $$
declare
  v_audio_key text;
begin
  ready := '{}';
  select j.status, j.audio_key into status, v_audio_key from jobs j where j.id = p_job for no key update;
  if not found then
    outcome := 'missing';
    return;
  elsif status not in ('failed', 'cancelled') or v_audio_key is null then
    outcome := 'refused';
    return;
  end if;
  ready := reopen_tasks(p_job, (select array_agg(id) from tasks where job_id = p_job and state <> 3), dalston_now());
  status := 'running';
  outcome := 'done';
  -- Rare, and operators call this from psql: here a notification inside the transaction does no harm.
  perform pg_notify('dalston_tasks', array_to_string(ready, ','));
end
$$;
