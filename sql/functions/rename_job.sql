-- rename_job: gives a job another name and answers the old one; null when there is no such job. Called by the API.
create or replace function rename_job(p_job uuid, p_display_name text) returns text
language plpgsql
as $$
declare
  v_old text;
begin
  select display_name into v_old from jobs where id = p_job for no key update;
  if found then
    update jobs set display_name = p_display_name where id = p_job;
    insert into job_log (job_id, at, type, body)
    values (p_job, dalston_now(), 'job.renamed', jsonb_build_object('old_name', v_old, 'new_name', p_display_name));
  end if;
  return v_old;
end
$$;
