"""Those who take part in a comparison, ours and others', each a program that `turns` starts and lets step by turns."""
