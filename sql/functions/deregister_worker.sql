-- deregister_worker: forgets a worker that stops in good order; what it still holds is given back. Called by workers.
create or replace function deregister_worker(p_worker uuid, out ready int[], out jobs uuid[])
language plpgsql
as $$
declare
  v_tasks uuid[];
  v_leases bigint[];
  v_returned record;
begin
  ready := '{}';
  jobs := '{}';
  select array_agg(t.id), array_agg(r.lease) into v_tasks, v_leases
    from running_tasks r cross join unnest(r.tasks) as t (id) where r.worker_id = p_worker;
  if v_tasks is not null then
    v_returned := give_back_tasks(v_tasks, v_leases);
    ready := v_returned.ready;
    jobs := v_returned.jobs;
  end if;
  delete from workers where id = p_worker;
end
$$;
