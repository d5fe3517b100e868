-- fan_out: adds the tasks that a completed task asked for, and answers the capabilities that became ready. Called by
-- complete_tasks, which holds the job's row; a job that is being cancelled gets no more tasks.
create or replace function fan_out(p_job uuid, p_task uuid, p_more jsonb, p_now timestamptz) returns int[]
language plpgsql
as $$
declare
  v_tasks jsonb := p_more->'fan_out';
  v_before uuid[];
  v_ready int[];
begin
  if jsonb_typeof(v_tasks) is distinct from 'array' or v_tasks = '[]'
     or not exists (select from jobs where id = p_job and status = 'running') then
    return '{}';
  end if;
  select coalesce(array_agg(b.id::uuid), '{}') into v_before
    from jsonb_array_elements_text(coalesce(p_more->'before', '[]')) as b (id);
  v_ready := add_tasks(p_job, v_tasks, v_before, p_task,
                       (select max_running is not null from tenants n join jobs j on j.tenant_id = n.id where j.id = p_job), p_now);
  update jobs set open_ends = open_ends + (select count(*) from tasks where spawned_by = p_task and ends_job and job_id = p_job)
   where id = p_job and v_before = '{}';
  return v_ready;
end
$$;
