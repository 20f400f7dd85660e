package websocketproxy

func (p *parser) access() *Access {
	if p.h.Access == nil {
		p.h.Access = new(Access)
	}
	return p.h.Access
}

// list returns the parser of an option with a list of words.
func (p *parser) list(field func(*Access) *[]string) func() error {
	return func() error {
		option, words := p.d.Val(), p.d.RemainingArgs()
		if len(words) == 0 {
			return p.d.Errf("%s needs at least one value", option)
		}
		list := field(p.access())
		*list = append(*list, words...)
		return nil
	}
}

func (p *parser) requireUpgrade() error {
	p.access().RequireUpgrade = true
	return nil
}
