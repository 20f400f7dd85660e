package upstream

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Word is what the agent of an upstream says of it, in HAProxy's words. The zero value
// says nothing. What is said stays until something else of its kind is said.
type Word struct {
	// Health is up, down, fail or stopped; the last three mean the same.
	Health string
	// State is ready, drain or maint.
	State string
	// Weight is a percentage of the configured weight.
	Weight Amount
	// Most is how many tunnels the upstream may have, instead of what is configured;
	// 0 means any number.
	Most Amount
	// Reason is why, in the agent's own text, if it has said its health.
	Reason string
}

// Amount is a number, or nothing.
type Amount struct {
	Said bool
	N    int
}

// HighestAgentWeight bounds what a percentage of a weight may be, unless that itself is
// higher.
const HighestAgentWeight = 256

// over is what is said after old was.
func (w Word) over(old Word) Word {
	if w.Health != "" {
		old.Health, old.Reason = w.Health, w.Reason
	}
	if w.State != "" {
		old.State = w.State
	}
	if w.Weight.Said {
		old.Weight = w.Weight
	}
	if w.Most.Said {
		old.Most = w.Most
	}
	return old
}

// String is how an agent would say it, without the reason.
func (w Word) String() string {
	var all []string
	for _, word := range []string{w.Health, w.State} {
		if word != "" {
			all = append(all, word)
		}
	}
	if w.Weight.Said {
		all = append(all, strconv.Itoa(w.Weight.N)+"%")
	}
	if w.Most.Said {
		all = append(all, "maxconn:"+strconv.Itoa(w.Most.N))
	}
	return strings.Join(all, " ")
}

// Closes reports whether the upstream gets no tunnels at all.
func (w Word) Closes() bool {
	return w.State == Maint || w.Health != "" && w.Health != Up
}

// Drains reports whether it gets no newcomers. As in HAProxy, a weight of 0 means that.
func (w Word) Drains() bool {
	return w.State == Drain || w.Weight.Said && w.Weight.N == 0
}

// weightScale is what weights are multiplied by, so that parts of them are numbers too.
const weightScale = 100

// scale returns what becomes of a configured weight, times weightScale. What drains keeps
// a weight, for those who belong there.
func (w Word) scale(weight int) int {
	if !w.Weight.Said || w.Weight.N == 0 {
		return weight * weightScale
	}
	highest := int64(max(weight, HighestAgentWeight)) * weightScale
	return int(max(1, min(int64(weight)*int64(w.Weight.N)*weightScale/100, highest)))
}

// most returns what becomes of a configured limit of tunnels.
func (w Word) most(configured int) int {
	if w.Most.Said {
		return w.Most.N
	}
	return configured
}

// mostMissed is how many answers in a row an agent may owe before nothing holds any more
// that it has said.
const mostMissed = 3

// Heed has an endpoint go by what an agent says that is asked like this. What others have
// asked of the address in the same way holds for e, too.
func (t *Table) Heed(e *Endpoint, key string) *Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := e.Host
	i := slices.IndexFunc(h.agents, func(v *Verdict) bool { return v.key == key })
	if i < 0 {
		i = len(h.agents)
		h.agents = append(h.agents, &Verdict{Host: h, key: key})
	}
	v := h.agents[i]
	v.endpoints = append(v.endpoints, e)
	e.Agent = v
	e.setWordLocked(v.word)
	return v
}

// Unheed takes that back. With the last endpoint, what was said is forgotten.
func (t *Table) Unheed(e *Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := e.Agent
	if v.endpoints = without(v.endpoints, e); len(v.endpoints) == 0 {
		v.Host.agents = slices.DeleteFunc(v.Host.agents, func(other *Verdict) bool { return other == v })
	}
}

// Hear takes note of an answer, with what was odd about it. It returns what was said
// before, and what holds now; isNews tells that something is odd that was not before.
func (t *Table) Hear(v *Verdict, w Word, problem string) (before, now Word, isNews bool) {
	t.mu.Lock()
	isNews = problem != "" && problem != v.lastError
	v.checked, v.streak, v.lastError = time.Now(), 0, problem
	before, now = t.sayLocked(v, w.over(v.word))
	return before, now, isNews
}

// Miss takes note that an answer did not come. After three in a row nothing holds any
// more of what was said before.
func (t *Table) Miss(v *Verdict, problem string) (before, now Word) {
	t.mu.Lock()
	v.checked, v.lastError = time.Now(), problem
	now = v.word
	if v.streak++; v.streak >= mostMissed {
		now = Word{}
	}
	return t.sayLocked(v, now)
}

// sayLocked has all endpoints go by what is said now. It gives the lock back.
func (t *Table) sayLocked(v *Verdict, now Word) (before, after Word) {
	before, v.word = v.word, now
	var again []*Endpoint
	if before != now {
		for _, e := range v.endpoints {
			e.setWordLocked(now)
		}
		if (before.Closes() || before.Drains()) && !now.Closes() && !now.Drains() {
			again = slices.Clone(v.endpoints)
		}
		t.serveLocked()
	}
	address := v.Host.Address
	t.mu.Unlock()
	if len(again) > 0 {
		t.Changed(Change{Kind: AddressUp, Address: address, Endpoints: again})
	}
	return before, now
}

// setWordLocked has e go by what its agent says.
func (e *Endpoint) setWordLocked(w Word) {
	e.word, e.share = w, 0
	if e.pool != nil {
		e.pool.weighed = time.Time{}
	}
	e.showLocked()
}

// weightLocked is what e weighs in a choice, times weightScale.
func (e *Endpoint) weightLocked() int32 {
	if e.share > 0 {
		return int32(e.share)
	}
	return int32(e.word.scale(e.Server.Weight))
}

// shownWeightLocked is what e weighs for newcomers, of whom it gets none by a weight of 0,
// and whether that is not what is configured.
func (e *Endpoint) shownWeightLocked() (weight float64, reweighed bool) {
	if e.word.Weight.Said && e.word.Weight.N == 0 {
		return 0, true
	}
	scaled := int(e.weightLocked())
	return float64(scaled) / weightScale, scaled != e.Server.Weight*weightScale
}

// mostLocked is how many tunnels e may have; 0 or less: any number.
func (e *Endpoint) mostLocked() int { return e.word.most(e.Server.MaxTunnels) }

// WordOf returns what the agent of an endpoint has said.
func (t *Table) WordOf(e *Endpoint) Word {
	t.mu.Lock()
	defer t.mu.Unlock()
	return e.word
}

// tellLocked adds what h has told of itself to what operators see. If several ask its
// agent, what closes it is told.
func (h *Host) tellLocked(i *Info) {
	for _, v := range h.agents {
		if i.Agent == "" || v.word.Closes() || v.word.Drains() {
			i.Agent, i.AgentReason = v.word.String(), v.word.Reason
		}
		if i.AgentError == "" {
			i.AgentError = v.lastError
		}
	}
	for _, l := range h.loads {
		i.Load = max(i.Load, l.utilisationLocked(time.Now()))
	}
}
