-- delete_job_audio: forgets the original audio of a finished job; transcript and tasks stay. The objects are the
-- caller's to delete afterwards. Called by the API. Outcomes: done, gone (deleted or purged before), refused (not
-- finished), missing.
create or replace function delete_job_audio(p_job uuid, out outcome text, out status text, out purged_at timestamptz)
language plpgsql
as $$
declare
  v_job jobs;
begin
  select * into v_job from jobs where id = p_job for no key update;
  status := v_job.status;
  purged_at := v_job.purged_at;
  if v_job.id is null then
    outcome := 'missing';
  elsif v_job.completed_at is null then
    outcome := 'refused';
  elsif v_job.audio_key is null then
    outcome := 'gone';
  else
    update jobs set audio_key = null, audio_deleted_at = dalston_now() where id = p_job;
    outcome := 'done';
  end if;
end
$$;
