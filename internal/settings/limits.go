package settings

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Retry says when a handshake that has failed is tried again.
type Retry struct {
	Limit    int // negative: no limit
	Duration time.Duration
	Interval time.Duration
	statuses Statuses // of answers after which another upstream is asked
}

// IsRetried reports whether an answer with this status is not settled for.
func (r *Retry) IsRetried(status int) bool {
	return r.statuses.Has(status)
}

// NewRetry applies the defaults.
func NewRetry(lb *LoadBalancing) (Retry, error) {
	r := Retry{Limit: DefaultRetries, Interval: OrDefault(lb.TryInterval, DefaultTryInterval), statuses: lb.RetryStatus}
	for i, status := range lb.RetryStatus {
		if problem := retryStatusProblem(status); problem != "" {
			return r, fmt.Errorf("load_balancing.retry_status[%d]: %s", i, problem)
		}
	}
	if lb.TryInterval < 0 {
		return r, errors.New("load_balancing.try_interval: must not be negative")
	}
	if lb.TryDuration > 0 {
		r.Limit, r.Duration = -1, time.Duration(lb.TryDuration)
	}
	if lb.Retries != nil {
		r.Limit = *lb.Retries
		if r.Limit < 0 {
			return r, errors.New("load_balancing.retries: must not be negative; 0 means never")
		}
	}
	return r, nil
}

// retryStatusProblem returns what is wrong with a status after which another
// upstream is to be asked, if anything.
func retryStatusProblem(status int) string {
	if status == 4 || status == 5 || status >= 400 && status <= 599 {
		return ""
	}
	return fmt.Sprintf("%d is no status of an error; use 400 to 599, or a class of these, 4xx or 5xx (in JSON 4 or 5)", status)
}

// NewQueueLimits applies the defaults. Without a cap there is nothing to wait
// for.
func NewQueueLimits(q *Queue) (upstream.QueueLimits, error) {
	limits := upstream.QueueLimits{Size: DefaultQueueSize, Timeout: DefaultQueueTimeout}
	if q == nil {
		return limits, nil
	}
	switch {
	case q.Timeout < 0:
		return limits, errors.New("load_balancing.queue.timeout: must not be negative; " +
			"a negative size means that nobody waits")
	case q.Size < 0 && q.Timeout != 0:
		return limits, errors.New("load_balancing.queue.timeout: has no effect without a size; set that too")
	case q.Size != 0:
		limits.Size = max(0, q.Size)
	}
	limits.Timeout = OrDefault(q.Timeout, DefaultQueueTimeout)
	return limits, nil
}

// Doubts say which answers of an upstream are held against it if others answer otherwise,
// and whether these may be asked.
type Doubts struct {
	Statuses Statuses
	Ask      bool
}

// Statuses are some of answers; below 10 a class.
type Statuses []int

// Has reports whether a status is one of them.
func (all Statuses) Has(status int) bool {
	return slices.ContainsFunc(all, func(s int) bool { return s == status || s == status/100 })
}

// NewDoubts applies the defaults.
func NewDoubts(cfg *PassiveHealthChecks) (Doubts, error) {
	cfg = cmp.Or(cfg, new(PassiveHealthChecks))
	limits, err := NewFailureLimits(cfg)
	if err != nil {
		return Doubts{}, err
	}
	d := Doubts{Statuses: Statuses{502, 503, 504}, Ask: !cfg.NoWitnesses}
	if len(cfg.UnhealthyStatus) > 0 {
		d.Statuses = cfg.UnhealthyStatus
	}
	if slices.Equal(d.Statuses, Statuses{-1}) {
		d.Statuses = nil
	}
	for i, status := range d.Statuses {
		if problem := retryStatusProblem(status); problem != "" {
			return d, fmt.Errorf("health_checks.passive.unhealthy_status[%d]: %s", i, problem)
		}
	}
	switch {
	case limits.Max > 0:
	case len(cfg.UnhealthyStatus) > 0:
		err = errors.New("health_checks.passive.unhealthy_status: has no effect as passive checks are off; leave it out")
	case cfg.NoWitnesses:
		err = errors.New("health_checks.passive.no_witnesses: has no effect as passive checks are off; leave it out")
	}
	return d, err
}

// mostMaxFails bounds what is remembered of one address.
const mostMaxFails = 1000

// NewFailureLimits applies the defaults of passive checks.
func NewFailureLimits(cfg *PassiveHealthChecks) (upstream.FailureLimits, error) {
	cfg = cmp.Or(cfg, new(PassiveHealthChecks))
	limits := upstream.FailureLimits{Duration: OrDefault(cfg.FailDuration, DefaultFailDuration), Max: cfg.MaxFails}
	switch {
	case limits.Duration == 0 && cfg.MaxFails != 0:
		return limits, errors.New("health_checks.passive.max_fails: has no effect as fail_duration is off; set that too")
	case limits.Duration == 0, limits.Max < 0:
		return upstream.FailureLimits{}, nil
	case limits.Max == 0:
		limits.Max = DefaultMaxFails
	case limits.Max > mostMaxFails:
		return limits, fmt.Errorf("health_checks.passive.max_fails: %d is more than %d", limits.Max, mostMaxFails)
	}
	return limits, nil
}
