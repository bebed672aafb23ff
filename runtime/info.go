package runtime

import "encoding/json"

// verboseInfo is a record as verbose answers show it.
func verboseInfo(record any) map[string]string {
	info := map[string]string{"info": mustJSON(record)}
	return info
}

// mustJSON renders what is made of plain data alone.
func mustJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return `{"error":"` + err.Error() + `"}`
	}
	return string(data)
}
