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
		option, list := p.d.Val(), field(p.access())
		if p.d.CountRemainingArgs() == 0 {
			return p.d.Errf("%s needs at least one value", option)
		}
		for p.d.NextArg() {
			if err := withoutCommas(option, p.d.Token()); err != nil {
				return err
			}
			p.note("access."+option, len(*list), p.d.Token())
			*list = append(*list, p.d.Val())
		}
		return nil
	}
}

func (p *parser) requireUpgrade() error {
	p.access().RequireUpgrade = true
	return nil
}
