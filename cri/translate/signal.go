package translate

import (
	"strconv"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// signal answers a stop signal as signal.h names it ("SIGTERM", "SIGRTMIN+3"); "" for the runtime's choice.
func (c *check) signal(field string, s criv1.Signal) string {
	name, known := criv1.Signal_name[int32(s)]
	if !known {
		c.refuse(field, "unknown signal %d", s)
		return ""
	}
	if s == criv1.Signal_SIGNAL_RUNTIME_DEFAULT {
		return ""
	}
	return strings.NewReplacer("SIGNAL_", "", "MINPLUS", "MIN+", "MAXMINUS", "MAX-").Replace(name)
}

// toSignal is the reverse. It also takes what images write as STOPSIGNAL: "TERM", "sigterm" or "15". SIGNAL_RUNTIME_DEFAULT for
// one that CRI has no name for.
func toSignal(name string) criv1.Signal {
	if n, err := strconv.Atoi(name); err == nil {
		name = signalName(n)
	}
	name = strings.TrimPrefix(strings.ToUpper(name), "SIG")
	name = strings.NewReplacer("MIN+", "MINPLUS", "MAX-", "MAXMINUS").Replace(name)
	return criv1.Signal(criv1.Signal_value["SIGNAL_SIG"+name])
}

// The real-time signals, as the C libraries number them.
const (
	rtMin = 34
	rtMax = 64
)

// signalName names a signal by its number, which is the same on amd64 and arm64.
func signalName(n int) string {
	if n < rtMin || n > rtMax {
		names := strings.Fields("? HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS")
		if n < 1 || n >= len(names) {
			return ""
		}
		return names[n]
	}
	const middle = 49 // RTMIN+15: up to here CRI counts from the low end
	switch {
	case n == rtMin:
		return "RTMIN"
	case n == rtMax:
		return "RTMAX"
	case n <= middle:
		return "RTMIN+" + strconv.Itoa(n-rtMin)
	default:
		return "RTMAX-" + strconv.Itoa(rtMax-n)
	}
}
