-- set_priority: moves an unfinished job forward (lower) or back in the queue; 100 is normal. For operators. Answers how
-- many open tasks it moved.
create or replace function set_priority(p_job uuid, p_priority smallint) returns int
language plpgsql
as $$
declare
  v_moved int;
begin
  update jobs set priority = p_priority where id = p_job;
  update tasks set priority = p_priority where job_id = p_job and state in (0, 1, 2, 7, 8);
  get diagnostics v_moved = row_count;
  return v_moved;
end
$$;
