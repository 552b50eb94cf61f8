-- Counts of reviews, as of the day in UTC. Returns which apps had no counts for the day yet.
with records as (
    select r.*
    from jsonb_to_recordset(%(records)s) as r (
        appid integer, total_reviews integer, positive_reviews integer, negative_reviews integer, review_score integer,
        review_score_desc text
    )
),

written as (
    insert into public.daily_metrics as d (
        appid, metric_date, total_reviews, positive_reviews, negative_reviews, review_score, review_score_desc
    )
    select
        appid, (now() at time zone 'UTC')::date, total_reviews, positive_reviews, negative_reviews, review_score,
        review_score_desc
    from records
    on conflict (appid, metric_date) do update set
        total_reviews = excluded.total_reviews,
        positive_reviews = excluded.positive_reviews,
        negative_reviews = excluded.negative_reviews,
        review_score = excluded.review_score,
        review_score_desc = excluded.review_score_desc
    returning d.appid, d.xmax = 0 as is_created
)

select appid, is_created from written
