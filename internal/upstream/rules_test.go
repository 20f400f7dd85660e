package upstream

import "time"

// handshake has an upstream asked for a tunnel, and others where the rule says so. It returns
// where the tunnel is; nil if nobody has opened one while v had patience.
func (m *model) handshake(c *Candidates, chosen *Choice, v *visitor) (won *Choice, resets bool) {
	r := m.ask(chosen, v)
	if r.after > chosen.Late && v.patience > chosen.Late {
		return m.late(c, chosen, v, r), false
	}
	if isOver := m.waits(v, r.after); isOver || !r.opens {
		m.end(chosen)
		if isOver || !m.blame(chosen) {
			return nil, false
		}
		return m.askOthers(c, chosen, v), false
	}
	m.w.TrialOver(chosen)
	m.opened(chosen, v, r.after)
	return chosen, r.resets
}

// waits has a visitor wait, and reports whether that was too long.
func (m *model) waits(v *visitor, d time.Duration) (tooLong bool) {
	tooLong = d > v.patience
	d = min(d, v.patience)
	v.patience -= d
	return !m.sleeps(d) || tooLong
}

func (m *model) opened(c *Choice, v *visitor, took time.Duration) {
	m.w.Answered(c, client(v.network), took)
}

// blame notes a failure, and reports whether others are asked.
func (m *model) blame(c *Choice) (ask bool) {
	switch f := c.Endpoint.Failures; m.rule {
	case witnesses:
		return m.w.Unanswered(f)
	case threeInATime:
		m.w.Failed(f)
	}
	return false
}

// askOthers asks witnesses, one after another.
func (m *model) askOthers(c *Candidates, of *Choice, v *visitor) *Choice {
	alike := false
	for i := range 2 {
		w := m.witness(c, of, i == 0)
		if w == nil {
			break
		}
		r := m.ask(w, v)
		switch isOver := m.waits(v, min(r.after, w.Late)); {
		case isOver:
			m.end(w)
			return nil
		case r.opens && r.after <= w.Late:
			m.opened(w, v, r.after)
			m.w.Convict(of.Endpoint.Failures)
			return w
		}
		m.end(w)
		alike = true
	}
	if alike {
		m.w.Acquit(of.Endpoint.Failures)
	}
	return nil
}

func (m *model) witness(c *Candidates, of *Choice, first bool) *Choice {
	w := c.Witness(of, first)
	if w != nil {
		m.count(func(o *outcome) { o.asked++ })
	}
	return w
}

// late is a handshake whose upstream has not answered in time. Others are asked beside it.
func (m *model) late(c *Candidates, chosen *Choice, v *visitor, r reply) (won *Choice) {
	asked := []*Choice{chosen}
	if m.waits(v, chosen.Late) {
		m.end(chosen)
		return nil
	}
	chosen.Overdue = true
	r.after -= chosen.Late
	replies := []reply{r}
	if m.blame(chosen) {
		for i := range 2 {
			if w := m.witness(c, chosen, i == 0); w != nil {
				asked, replies = append(asked, w), append(replies, m.ask(w, v))
			}
		}
	}
	first, last := -1, time.Duration(0)
	for i, r := range replies {
		if last = max(last, r.after); r.opens && (first < 0 || r.after < replies[first].after) {
			first = i
		}
	}
	if first >= 0 {
		last = replies[first].after
	}
	isOver := m.waits(v, last)
	for i, one := range asked {
		if i != first || isOver {
			m.end(one)
		}
	}
	switch {
	case isOver:
		return nil
	case first < 0 && len(asked) > 1:
		m.w.Acquit(chosen.Endpoint.Failures)
		return nil
	case first < 0:
		return nil
	case first > 0:
		m.w.Convict(chosen.Endpoint.Failures)
	}
	m.w.TrialOver(chosen)
	m.opened(asked[first], v, last)
	return asked[first]
}
