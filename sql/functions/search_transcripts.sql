-- search_transcripts: finds jobs by words of their transcripts, in the syntax of web search engines, best first. Called
-- by the API.
create or replace function search_transcripts(p_tenant uuid, p_key uuid, p_query text, p_limit bigint)
returns table (job_id uuid, display_name text, snippet text, rank real)
language sql stable
as $$
  select hit.id, hit.display_name,
         ts_headline('simple', hit.text, hit.query, 'StartSel=**, StopSel=**, MaxFragments=2, MaxWords=20, MinWords=8'),
         hit.rank
    from (select j.id, j.display_name, t.text, q.query, ts_rank(t.search, q.query) as rank
            from websearch_to_tsquery('simple', p_query) as q (query)
            join transcripts t on t.search @@ q.query
            join jobs j on j.id = t.job_id
           where j.tenant_id = p_tenant and (p_key is null or j.created_by_key_id = p_key)
           order by rank desc, j.created_at desc limit p_limit) hit
   order by hit.rank desc
$$;
