-- take_request: counts one request of a subject against p_limit a minute. The window slides: last minute's requests
-- count by the share of that minute still within the last 60 seconds. A refused request is not counted. One row per
-- subject, one statement. Called by the API.
create or replace function take_request(
  p_subject text, p_limit int, out allowed boolean, out remaining int, out reset_seconds int
)
language plpgsql
as $$
declare
  v_epoch double precision := extract(epoch from dalston_now());
  v_minute bigint := floor(v_epoch / 60);
  v_weight double precision := 1 - (v_epoch / 60 - floor(v_epoch / 60));  -- share of last minute that still counts
  v_row request_counts;
begin
  insert into request_counts as c (subject, minute, current, previous, allowed)
  values (p_subject, v_minute, case when p_limit > 0 then 1 else 0 end, 0, p_limit > 0)
  on conflict (subject) do update
    set (minute, current, previous, allowed) = (
      select v_minute, n.current + case when n.current + n.previous * v_weight + 1 <= p_limit then 1 else 0 end, n.previous,
             n.current + n.previous * v_weight + 1 <= p_limit
        from (select case when c.minute = v_minute then c.current else 0 end as current,
                     case c.minute when v_minute then c.previous when v_minute - 1 then c.current else 0 end as previous) n)
  returning c.* into v_row;
  allowed := v_row.allowed;
  remaining := greatest(0, floor(p_limit - v_row.current - v_row.previous * v_weight))::int;
  reset_seconds := case
    when allowed then 60
    -- Room comes as last minute's share shrinks; if this minute alone fills the limit, only when it is over.
    when v_row.previous > 0 and v_row.current < p_limit
      then ceil(60 * least(v_weight, v_weight - (p_limit - v_row.current - 1)::double precision / v_row.previous))
    else ceil(60 * v_weight) end;
  reset_seconds := least(60, greatest(1, reset_seconds));
end
$$;
